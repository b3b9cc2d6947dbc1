"""The services that twistd launches: options and assembly only, the work is done elsewhere."""
