help:
	@echo setup
