"""The cluster of deploy/ha, run on this machine, and what its clients see while parts of it fail: `make test-ha`."""
