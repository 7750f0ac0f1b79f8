"""The tokenizers of the miniature text encoders: the classes of the real models, with a vocabulary learned from captions."""

import json

MAX_TOKENS = 20


def clip_tokenizer(captions: list[str]):
    """Return a byte-pair tokenizer in which every word of the captions is one token."""
    import tokenizers
    from transformers import CLIPTokenizer

    learned = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    learned.train_from_iterator(captions, tokenizers.trainers.BpeTrainer(
        vocab_size=2_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
    ))  # fmt: skip
    model = json.loads(learned.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    joined = [first + second for first, second in merges]
    # the trainer numbers single characters in random order; here they are sorted, so that the numbers are always the same
    singles = sorted(token for token in model["vocab"] if token not in {*joined, "<|startoftext|>", "<|endoftext|>"})
    vocab = {token: number for number, token in enumerate(["<|startoftext|>", "<|endoftext|>", *singles, *joined])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def t5_tokenizer(captions: list[str]):
    """Return a unigram tokenizer in which every word of the captions is one token."""
    from transformers import T5Tokenizer

    words = {"▁" + word for caption in captions for word in caption.replace(",", " ").split()}
    characters = {character for word in words for character in word} | {","}
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(word, -2.0) for word in sorted(words)]
    vocab += [(character, -6.0) for character in sorted(characters - words)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=MAX_TOKENS)
