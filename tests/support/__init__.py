"""What several tests share: where the real material lies, and tiny random models."""
