"""``fathom bench``: the performance table of this machine. Only the command line knows of it.

``table`` names the rows and their budgets and prints them, ``rows`` says what each times; the rest is what they time.
"""
