"""The layouts that data comes in, a module each; `data/loading.py` lists them."""
