import pytest
import torch

from segviz_core.experiments.condist import conditional_distillation, weight


def test_student_like_its_teacher_loses_nothing_and_another_one_does() -> None:
    torch.manual_seed(0)
    teacher = 40 * torch.nn.functional.one_hot(torch.randint(0, 4, (2, 4, 4, 4)), 4).movedim(-1, 1).float()
    mask = torch.zeros(2, 4, 4, 4)
    assert conditional_distillation(teacher, teacher, mask, 1) == pytest.approx(0, abs=1e-4)
    assert conditional_distillation(teacher.roll(1, 1), teacher, mask, 1) > 0.5


def test_own_organ_and_what_the_teacher_takes_for_it_say_nothing() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(1, 3, 4, 4, 4), torch.randn(1, 3, 4, 4, 4)
    teacher[:, 1, :2] = 9  # sees the own organ there
    mask = torch.zeros(1, 4, 4, 4)
    mask[:, 2] = 1  # labelled there
    changed = student.clone()
    changed[:, :, :3] += torch.randn(1, 3, 3, 4, 4)
    changed[:, 1] = 5.0  # the own channel is no part of Q
    one, other = (conditional_distillation(s, teacher, mask, 1) for s in (student, changed))
    assert one == pytest.approx(float(other), abs=1e-6)


def test_weight_rises_over_the_rounds() -> None:
    assert [weight(i, 3) for i in range(3)] == pytest.approx([0.01, 0.505, 1.0])
    assert weight(0, 1) == pytest.approx(0.01)
