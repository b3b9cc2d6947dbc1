"""The `wsframe` command: its arguments in this process, its work in processes of their own."""
