"""Speed and memory, measured against what people train emotion recognition with today."""
