"""Training as a pure function: the program and what it is made of. No files, no printing, no
configuration.
"""
