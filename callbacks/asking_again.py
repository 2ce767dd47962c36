"""Asks the questions of a split again, without a stream or with another clip's."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from lightning import Trainer

from callbacks.kept_answers import KeptAnswers
from callbacks.trainer_access import data
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track
from vlynx_pl.metrics import Answered, Protocol, Scores
from vlynx_pl.muting import Way, circle
from vlynx_pl.stream_tokens import EncodedClip
from vlynx_pl.tuning import InstructionTuning


class AskingAgain:
    """The answers in all ways to the questions of a split, from all ranks.

    Each rank takes a part of the circle of clips, and goes through it in order, so that at most
    two clips are encoded at a time beside those that the module has kept. The pairs of clips do not
    depend on the number of ranks.

    Args:
        trainer: of the run.
        module: whose encodings are used.
        split: whose questions are asked.
        ways: in which to answer.
        protocol: of the benchmark.
        kept: where the answers are kept until they are scored.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: InstructionTuning,
        split: str,
        ways: Sequence[Way],
        protocol: Protocol,
        kept: KeptAnswers,
    ) -> None:
        self._trainer, self._module, self._split, self._ways = trainer, module, split, ways
        self._episodes = {episode.name: episode for episode in data(trainer).episodes(split)}
        self._kept = kept
        # What the first rank reads, as in a first answer.
        found = kept.read() if trainer.is_global_zero else {}
        self._earlier: Mapping[str, Answered] = trainer.strategy.broadcast(found)
        self._scores = Scores(protocol).to(module.device)

    def ask(self, clips: Collection[str], kept_in: str) -> None:
        """Answer this rank's part of the questions.

        Args:
            clips: those that the questions are about; all ranks give the same.
            kept_in: tells what is not lost if the process is asked to stop.

        Raises:
            Interrupted: it is.
        """
        trainer = self._trainer
        path = self._path(circle(clips))
        encoded = self._clips([name for name, _ in path])
        before: EncodedClip | None = None
        for (_, ways), clip in zip(path, track(encoded, "Asking again", len(path)), strict=True):
            if ways:
                with trainer.precision_plugin.test_step_context():
                    said = self._module.answers_again(ways, clip, before)
                self._record(clip, said)
            before = clip
            if asked_to_stop():
                raise Interrupted(f"Stopped while asking again, as asked. {kept_in}")

    def _path(self, order: Sequence[str]) -> list[tuple[str, list[Way]]]:
        """The clips to encode, in order, with the ways that are left for each.

        A clip that needs another one comes right after it. What was kept is scored.
        """
        path: list[tuple[str, list[Way]]] = []
        count, ranks, rank = len(order), self._trainer.world_size, self._trainer.global_rank
        for place in range(rank * count // ranks, (rank + 1) * count // ranks):
            name, before = order[place], order[place - 1]
            left = [way for way in self._ways if not self._score_kept(way, name)]
            if left:
                if count > 1 and (not path or path[-1][0] != before):
                    path.append((before, []))
                path.append((name, left))
        return path

    def _score_kept(self, way: Way, name: str) -> bool:
        """Score the kept answers to all questions on a clip; return whether there were any."""
        asked = self._asked(way, name, [None] * len(self._episodes[name].questions))
        answers = [self._earlier[one.id] for one in asked if one.id in self._earlier]
        if [replace(answer, prediction=None, times={}) for answer in answers] != asked:
            return False
        self._scores.update(answers)
        return True

    def _asked(self, way: Way, name: str, said: Sequence[str | None]) -> list[Answered]:
        """A clip's questions, their ids marked with the way, with their answers."""
        return [
            Answered.of(replace(question, id=f"{way}\t{question.id}"), text, name)
            for question, text in zip(self._episodes[name].questions, said, strict=True)
        ]

    def _clips(self, names: Sequence[str]) -> Iterator[EncodedClip]:
        """Encode clips; those whose encodings are kept are not read."""
        trainer, module = self._trainer, self._module
        assert module.encodings is not None
        read = [name for name in names if module.encodings.of(name) is None]
        batches = iter(data(trainer).episode_batches(self._split, read)) if read else iter(())
        for name in names:
            clip = module.encodings.of(name)
            if clip is None:
                [episode] = trainer.datamodule.transfer_batch_to_device(  # type: ignore[attr-defined]
                    next(batches), module.device, 0
                )
                with trainer.precision_plugin.test_step_context():
                    clip = module.encoded_clip(episode)
            yield clip.on(module.device)

    def _record(self, clip: EncodedClip, said: Mapping[Way, Sequence[str]]) -> None:
        new = [
            answer
            for way, texts in said.items()
            for answer in self._asked(way, clip.episode["name"], texts)
        ]
        self._scores.update(new)
        self._kept.keep(new)

    def gathered(self, answered: Sequence[Answered]) -> dict[Way, list[Answered]]:
        """Gather the answers of all ranks, which must call this together.

        Args:
            answered: the questions as they were answered first.

        Returns:
            Way → an answer to each of these questions, in this order. Those that were not
            asked, because their media cannot be used, have no prediction.
        """
        with self._scores.sync_context():
            again = {answer.id: answer.prediction for answer in self._scores.answered()}
        return {
            way: [replace(one, prediction=again.get(f"{way}\t{one.id}")) for one in answered]
            for way in self._ways
        }
