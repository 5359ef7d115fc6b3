"""Texts for the tests of the tokenizer."""

TEXT = "the cat sat on the mat; the cat's hat, that is. They're 12 cats in 2024!\n\n  So what?  " * 3
MIXED = [
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u4e00\u4e8c\u4e09 \u2167 \u00bd x\u00b2",  # Chinese, numbers that are no digits
    "caf\u00e9 na\u00efve \u0130stanbul \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u0434\u0430 a\u0308",
    "\U0001f600\U0001f469\u200d\U0001f680 \u2764\ufe0f\U0001f1e9\U0001f1ea",  # emoji, joined ones too
    "def f(x):\n\treturn x**2  # it's\r\n\n\n    if x_1 != y: pass\n",
    "a\u00a0b\u2003c\u3000\u2028d\x1ce\x85 \t \n x  ",  # white space, and \x1c, which is none
    "I'll we've they'd IT'S 'tis ''s",
]
