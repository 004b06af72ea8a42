from symbert_jax import config
def get_config():
    c = config.default()
    c.model.update(layers=4, dim=256, heads=4, mlp_dim=1024, length=128, dtype="float32", attention_dropout=0.0, dropout=0.0)
    c.data.update(dir="data/wiki_books_128", batch_size=32)
    c.optim.update(learning_rate=5e-4, warmup_steps=100)
    c.train.update(steps=300, log_every=10, validate_every=50, validate_batches=8, checkpoint_every=100)
    return c
