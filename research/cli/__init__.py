"""The command line, one module for each subcommand. Imports nothing heavy at the top."""
