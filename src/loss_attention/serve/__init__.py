"""A model or an exported file behind a web page and an HTTP API; the extra `serve` brings both."""
