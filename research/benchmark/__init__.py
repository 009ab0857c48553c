"""``fathom bench``: the performance table of this machine.

``rows`` declares the rows and their budgets, ``table`` prints them, and the other modules measure.
"""
