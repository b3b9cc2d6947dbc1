"""The endpoints as they are made: arguments, choices and errors, before any socket is opened."""
