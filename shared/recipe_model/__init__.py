"""The networks of RECIPE, their checkpoints, and the models they join: a text encoder and a frozen LLM.

Paper: Chen et al., "Lifelong Knowledge Editing for LLMs with Retrieval-Augmented Continuous Prompt Learning",
EMNLP 2024, https://arxiv.org/abs/2405.03279.
"""
