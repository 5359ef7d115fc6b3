"""What the tests of Llama share."""

SIZES = {"vocab_size": 11, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 6}
