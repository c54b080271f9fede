"""The layouts that data comes in, a module each."""
