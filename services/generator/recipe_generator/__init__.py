"""The generator: an LLM that answers with live knowledge where it applies, and says so."""
