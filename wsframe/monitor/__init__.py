"""The machine monitor: agents report, a registry remembers, a page shows."""
