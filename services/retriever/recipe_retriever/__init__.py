"""The retriever: from a query to the stored fact that answers it, or to the decision that none does."""
