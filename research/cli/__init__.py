"""The command line: one module for each subcommand. Nothing heavy is imported before it is needed."""
