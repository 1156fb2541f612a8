"""The same BiLSTM-CRF as a PyTorch user writes it, on ``nn.LSTM`` and pytorch-crf: the peer that benchmarks run beside ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torchcrf import CRF


class TorchTagger(nn.Module):
    """Word embeddings (+ character BiLSTM) -> BiLSTM -> emissions -> CRF, without dropout."""

    def __init__(self, fields: Mapping[str, Any]):
        super().__init__()
        self.word_embedding = nn.Embedding(fields["num_words"], fields["word_features"])
        size = fields["word_features"]
        self.spells = fields["num_characters"] > 0
        if self.spells:
            self.character_embedding = nn.Embedding(fields["num_characters"], fields["character_features"])
            self.character_lstm = self._lstm(fields["character_features"], fields["character_hidden"])
            size += 2 * fields["character_hidden"]
        self.lstm = self._lstm(size, fields["hidden"])
        self.emission = nn.Linear(2 * fields["hidden"], len(fields["tag_names"]))
        self.crf = CRF(len(fields["tag_names"]), batch_first=True)

    @staticmethod
    def _lstm(inputs: int, features: int) -> nn.LSTM:
        lstm = nn.LSTM(inputs, features, batch_first=True, bidirectional=True)
        for name in ("bias_hh_l0", "bias_hh_l0_reverse"):
            # A second bias that is only ever added to the first: ours has one.
            getattr(lstm, name).data.zero_()
            getattr(lstm, name).requires_grad_(False)
        return lstm

    def load_flax(self, params: Mapping[str, Any]) -> None:
        """Copies the parameters of a :class:`colnorm.Tagger`."""

        def copy(target: torch.Tensor, value: Any) -> None:
            target.data.copy_(torch.tensor(np.asarray(value)))

        def copy_lstm(lstm: nn.LSTM, stored: Mapping[str, Any]) -> None:
            for direction, suffix in (("forward", ""), ("backward", "_reverse")):
                copy(getattr(lstm, f"weight_ih_l0{suffix}"), stored[direction]["input_kernel"].T)
                copy(getattr(lstm, f"weight_hh_l0{suffix}"), stored[direction]["recurrent_kernel"].T)
                copy(getattr(lstm, f"bias_ih_l0{suffix}"), stored[direction]["bias"])

        copy(self.word_embedding.weight, params["word_embedding"]["embedding"])
        if self.spells:
            copy(self.character_embedding.weight, params["character_embedding"]["embedding"])
            copy_lstm(self.character_lstm, params["character_lstm"])
        copy_lstm(self.lstm, params["lstm"])
        copy(self.emission.weight, params["emission"]["kernel"].T)
        copy(self.emission.bias, params["emission"]["bias"])
        copy(self.crf.transitions, params["crf"]["transitions"])
        copy(self.crf.start_transitions, params["crf"]["start"])
        copy(self.crf.end_transitions, params["crf"]["end"])

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The negative log-likelihood summed over the sentences of a padded batch."""
        emissions, mask = self.emissions(batch)
        return -self.crf(emissions, batch["tags"][:, : emissions.shape[1]], mask=mask, reduction="sum")

    def decode(self, batch: Mapping[str, torch.Tensor]) -> list[list[int]]:
        """The most probable tags of each sentence."""
        tags: list[list[int]] = self.crf.decode(*self.emissions(batch))
        return tags

    def emissions(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores of the tags ``(B, T, K)``, and which tokens are there ``(B, T)``."""
        inputs = [self.word_embedding(batch["words"])]  # (B, T, D)
        if self.spells:
            inputs.append(self._spell(batch["characters"], batch["character_lengths"]))
        packed = pack_padded_sequence(torch.cat(inputs, -1), batch["lengths"].cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        emissions = self.emission(states)
        return emissions, torch.arange(emissions.shape[1])[None] < batch["lengths"][:, None]

    def _spell(self, characters: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The last states of every word that is not padding, zeros elsewhere, ``(B, T, 2 H)``."""
        inside = lengths > 0
        spelt = self.character_embedding(characters[inside])
        packed = pack_padded_sequence(spelt, lengths[inside].cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.character_lstm(packed)  # (2, words, H)
        states = torch.cat([last[0], last[1]], -1)
        return states.new_zeros(*lengths.shape, states.shape[-1]).index_put((inside,), states)
