"""`kvbatch` that leaves behind what the kernel says of the most memory that it had: peak_memory.py FILE ARGUMENT…"""

from __future__ import annotations

import sys
from pathlib import Path

from kvbatch import cli
from kvbatch.process import peak_rss_bytes

if __name__ == "__main__":
    file = Path(sys.argv.pop(1))
    try:
        cli.main()
    finally:
        file.write_text(str(peak_rss_bytes()))
