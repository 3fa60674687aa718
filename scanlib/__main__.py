"""``python -m scanlib`` prints the configuration."""

from scanlib.config import show_config

if __name__ == "__main__":
    show_config()
