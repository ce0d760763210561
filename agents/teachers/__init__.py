"""Teachers: clients of other language models that judge, tag and answer."""
