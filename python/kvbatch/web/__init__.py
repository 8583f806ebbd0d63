"""The live page of a migration; needs the extra `web`. docs/metrics.md has the page about it."""
