"""From words over phones and manner classes to emotion-tagged units (stage 2)."""
