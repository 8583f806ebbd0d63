"""python -m kvbatch"""

from kvbatch.cli import main

main()
