"""A decoder-only transformer language model with layer normalisation before its parts."""

from __future__ import annotations

from resmem_cli.errors import UsageError
from resmem_cli.models.architectures.base import architecture
from resmem_cli.models.extra import torch

nn = torch.nn
functional = torch.nn.functional

_INIT_STD = 0.02


@architecture("transformer-lm")
class TransformerLM(nn.Module):
    """Token and position embeddings, `depth` blocks of causal attention and a GELU MLP, a linear head.

    Each block adds ``attn(attn_norm(x))`` and then ``mlp(mlp_norm(x))`` to x, so the input of
    ``blocks.{i}.mlp`` is the block's representation after its layer normalisation and before its MLP.
    Token t sees tokens 0 to t of its row only: what pads a row on the right changes nothing before it.

    Parameters
    ----------
    vocab_size : int
        Token ids run from 0 to ``vocab_size - 1``.
    context : int
        The longest window of tokens; each position in it has a learned embedding.
    width : int
        Size of a token's representation; a multiple of `heads`.
    depth : int
        Blocks.
    heads : int
        Attention heads of a block.
    mlp_ratio : int
        The MLP's hidden layer has ``mlp_ratio * width`` units.
    tied : bool
        Whether the head's weights are the token embeddings.
    dropout : float
        Share of the embeddings, of the attention's weights and of each part's output that is dropped in
        training.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        context: int = 256,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 4,
        tied: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {
            "vocab_size": vocab_size,
            "context": context,
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": mlp_ratio,
        }
        for field, size in sizes.items():
            if size < 1:
                raise UsageError("out of range", field=field, expected="at least 1", found=size)
        if width % heads:
            raise UsageError(
                "does not divide into the heads",
                field="width",
                expected=f"a multiple of {heads}",
                found=width,
            )
        if not 0 <= dropout < 1:
            raise UsageError("out of range", field="dropout", expected="in [0, 1)", found=dropout)
        self.context = context
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self._initialise()
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Give the logits ``(b, L, vocab_size)`` of the token after each of `ids` ``(b, L)``.

        Raises
        ------
        ValueError
            If L is more than the context.
        """
        length = ids.shape[1]
        if length > self.context:
            raise ValueError(f"a window of {length} tokens is longer than the context of {self.context}")
        states = self.dropout(self.tokens(ids) + self.positions.weight[:length])
        for block in self.blocks:
            states = block(states)
        logits: torch.Tensor = self.head(self.norm(states))
        return logits

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        parts = [module for module in self.modules() if isinstance(module, _CausalAttention | _MLP)]
        for part in parts:
            # All parts add to one sum, whose variance shall not grow with their number.
            nn.init.normal_(part.project.weight, std=_INIT_STD / len(parts) ** 0.5)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(width)
        self.attn = _CausalAttention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = _MLP(width, mlp_ratio * width, dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = states + self.attn(self.attn_norm(states))
        summed: torch.Tensor = states + self.mlp(self.mlp_norm(states))
        return summed


class _CausalAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        b, length, width = states.shape
        packed = self.query_key_value(states).view(b, length, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout.p if self.training else 0.0, is_causal=True
        )
        projected: torch.Tensor = self.dropout(self.project(mixed.transpose(1, 2).reshape(b, length, width)))
        return projected


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.dropout(self.project(functional.gelu(self.expand(states))))
        return projected
