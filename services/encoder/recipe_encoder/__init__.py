"""The encoder service: fact-change events from Kafka become vectors in the knowledge store."""
