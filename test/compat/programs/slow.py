"""The application of the directory, after a boot of 3 s."""
import time

time.sleep(3)
from app import app  # noqa: E402, F401
