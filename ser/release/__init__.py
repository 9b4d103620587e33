"""Models for others: packed folders, cards, ONNX, the demonstration page (stage 7)."""
