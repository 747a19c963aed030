"""LoRA adapters: read, checked, kept in memory, projected."""
