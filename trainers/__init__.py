"""One fine-tuning stage: recipes and stage keys, the DeepSpeed loop, models, and its launch on Ray Train."""
