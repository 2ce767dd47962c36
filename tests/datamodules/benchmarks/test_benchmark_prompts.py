"""The wording of every prompt, letter by letter."""

from datamodules.benchmarks import prompts

OPTIONS = ["one", "two", "three", "four"]


def test_avqa():
    assert prompts.avqa("How many?", OPTIONS) == (
        "Select the best answer to the following multiple-choice question based on the video and "
        "the subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "How many?\nA.one\nB.two\nC.three\nD.four\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_video_mme():
    assert prompts.video_mme("How many?", ["A. 1.", "B. 2.", "C. 3.", "D. 4."]) == (
        "Select the best answer to the following multiple-choice question based on the video and "
        "the subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "How many?\nA. 1.\nB. 2.\nC. 3.\nD. 4.\n\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_mvbench():
    assert prompts.mvbench("How many?", ["one", "two"]) == (
        "Question:How many?\nOption:\n(A) one\n(B) two\nOnly give the best option.\n"
    )
    assert "\n(E) five\n" in prompts.mvbench("How many?", [*OPTIONS, "five"])


def test_mlvu():
    assert prompts.mlvu("How many?", OPTIONS) == (
        "Select the best answer to the following multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "How many?\n(A) one\n(B) two\n(C) three\n(D) four\nAnswer:"
    )


def test_sqa3d():
    assert prompts.sqa3d("I sit.", "What is left?") == "I sit. What is left?"


def test_ego_exo4d():
    assert prompts.ego_exo4d() == (
        "In this video, a human is performing an activity. Your goal is to evaluate the human's "
        "skill level based on their technique, consistency, and overall execution of the activity. "
        "You will classify the performance into one of the following levels: "
        "1. Novice: Beginner-level performance with noticeable gaps in basic skills, "
        "understanding, or execution. "
        "2. Early Expert: Competent performance showing solid foundational skills, but with room "
        "for refinement. "
        "3. Intermediate Expert: Advanced performance demonstrating strong technical abilities and "
        "strategic understanding, but not yet at mastery. "
        "4. Late Expert: Near-masterful or masterful performance, showcasing exceptional skill, "
        "precision, and expertise. Example Output: Early Expert"
    )
