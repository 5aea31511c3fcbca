"""The model as data: which of its layers share channels and are decided together."""
