"""Speed and memory compared with current toolkits for training emotion recognition."""
