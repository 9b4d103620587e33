"""Words to phones, manner classes and emotion-tagged units (stage 2)."""
