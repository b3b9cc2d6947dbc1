"""wsframe: WebSockets and proxy tunnels for Twisted."""
