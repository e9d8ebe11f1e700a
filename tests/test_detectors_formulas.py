"""The score of every detector against its formula, computed here from the bare network by numpy, scipy and autograd.

The formulas are those of the papers. Where pytorch-ood 0.4 computes something else, the formula here follows it, and a
comment says so.
"""

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special
from scipy.spatial.distance import cdist
from scipy.stats import entropy, multivariate_normal, weibull_min
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from oodattack.detectors import Classifier, make_detectors
from oodattack.encoders import Encoder
from oodattack.networks import Bottleneck, CifarResNet

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.25, 0.2)
DROPOUT = 0.3


class Case:
    """A classifier, images x of classes y to fit its detectors on, and images to score."""

    def __init__(self, net: nn.Sequential, x: Tensor, y: Labels, images: Tensor) -> None:
        self.net, self.x, self.y, self.images = net, x, y, images
        self.weight: Array = net.get_parameter("12.weight").detach().double().numpy()
        self.bias: Array = net.get_parameter("12.bias").detach().double().numpy()
        self.bank, self.seen = self.z(x), self.z(images)
        self.bank_logits, self.logits = self.head(self.bank), self.head(self.seen)
        self.p, self.best = softmax(self.logits), self.logits.argmax(1)
        # With its own generator, because the global one decides which images Gram holds out.
        data = TensorDataset(x, torch.from_numpy(y))
        self.loader = DataLoader(data, batch_size=32, generator=torch.Generator().manual_seed(0))
        encoder = Encoder(net, name="mine", input_size=(16, 16), mean=MEAN, std=STD)
        self.detectors = make_detectors(Classifier(encoder))[0]

    def layers(self, x: Tensor) -> list[Tensor]:
        """The activations at the end of each resolution, and the logits."""
        found = [normalised(x)]
        for start, end in ((0, 3), (3, 6), (6, 9), (9, 13)):
            found.append(self.net[start:end](found[-1]))
        return found[1:]

    def maps(self, x: Tensor) -> list[Array]:
        return [layer.detach().double().numpy() for layer in self.layers(x)[:-1]]

    def means(self, x: Tensor) -> list[Array]:
        return [maps.mean((2, 3)) for maps in self.maps(x)]

    def z(self, x: Tensor) -> Array:
        return self.means(x)[-1]

    def head(self, z: Array) -> Array:
        return np.asarray(z @ self.weight.T + self.bias)


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def softmax(logits: Array) -> Array:
    return np.asarray(special.softmax(logits, axis=1))


def energy(logits: Array) -> Array:
    return -np.asarray(special.logsumexp(logits, axis=1))


def unit(z: Array) -> Array:
    return np.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))


def draw(y: Labels, rng: np.random.Generator) -> Tensor:
    """Images of four overlapping classes, each with its own colour and width of stripes."""
    colours = np.array([[0.7, 0.4, 0.3], [0.3, 0.6, 0.4], [0.4, 0.3, 0.6], [0.6, 0.6, 0.2]])[y]
    colours = colours + rng.normal(0, 0.12, colours.shape)
    stripes = 0.15 * np.sin(np.arange(16) * (y + 1)[:, None] / 2 + rng.uniform(0, 6, (len(y), 1)))
    pixels = colours[:, :, None, None] + stripes[:, None, None, :] + rng.normal(0, 0.15, (len(y), 3, 16, 16))
    return torch.from_numpy(pixels.clip(0, 1)).float()


@pytest.fixture(scope="module")
def case() -> Case:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(4), [36, 32, 28, 24]))
    x = draw(y, rng)
    images = torch.cat([draw(np.arange(12) % 4, rng), torch.from_numpy(rng.uniform(0, 1, (4, 3, 16, 16))).float()])
    body: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for inputs, outputs, stride in ((3, 8, 1), (8, 10, 2), (10, 16, 2)):
            norm = nn.BatchNorm2d(outputs, momentum=None)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.3, 0.3)
            body += [nn.Conv2d(inputs, outputs, 3, stride, 1), norm, nn.ReLU(inplace=True)]
        head = nn.Linear(16, 4)
        net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(DROPOUT), head)
        net(normalised(x))  # the norms' statistics
    # The head is right most of the time but not always, and its bias matters.
    z = net.eval()[:-1](normalised(x)).detach().numpy()
    fit = np.linalg.lstsq(np.column_stack([z, np.ones(len(y))]), np.eye(4)[y] * 6, rcond=None)[0].T
    fit += rng.normal(0, 0.2, fit.shape)
    head.load_state_dict(
        {"weight": torch.from_numpy(fit[:, :-1]), "bias": torch.from_numpy(fit[:, -1] + [1.0, -0.5, 0.5, -1.0])}
    )
    return Case(net, x, y, images)


def kl_matching(c: Case) -> Array:
    bank, guess = softmax(c.bank_logits), c.bank_logits.argmax(1)
    divergences = [entropy(c.p, bank[guess == k].mean(0)[None], axis=1) for k in np.unique(guess)]
    return np.asarray(np.min(divergences, axis=0))


def temperature_scaling(c: Case) -> Array:
    # The library stops before the optimum: 50 secant steps (L-BFGS in one dimension), each scaled by 0.01.
    picked = c.bank_logits[np.arange(len(c.y)), c.y]
    before, now, slope_before = 0.0, 1.0, 0.0
    for step in range(50):
        slope = ((picked - (softmax(c.bank_logits / now) * c.bank_logits).sum(1)) / now**2).mean()
        move = slope * min(1, 1 / abs(slope)) if step == 0 else slope * (now - before) / (slope - slope_before)
        before, now, slope_before = now, now - 0.01 * move, slope
    return np.asarray(-softmax(c.logits / now).max(1))


def openmax(c: Case) -> Array:
    # The paper uses only correctly classified images; the library uses all images of a class.
    assert set(c.best) == set(range(4))  # to a class that is predicted for no image, the library takes a distance of 0
    kept = np.zeros_like(c.logits)
    for k in range(4):
        bank = c.bank_logits[c.y == k]
        distances, seen = (np.linalg.norm(logits - bank.mean(0), axis=1) for logits in (bank, c.logits))
        tail = np.sort(distances)[-25:]
        shape, _, scale = weibull_min.fit(tail - tail[0] + 10000, floc=0)
        rank = (c.logits > c.logits[:, [k]]).sum(1)
        kept[:, k] = 1 - (4 - rank) / 4 * weibull_min.cdf(seen - tail[0] + 10000, shape, scale=scale)
    unknown = (c.logits * (1 - kept)).sum(1)
    return softmax(np.column_stack([unknown, c.logits * kept]))[:, 0]


def gaussians(bank: Array, y: Labels) -> tuple[Array, Array]:
    """Means and shared precision; the library does not divide the covariance by the number of images."""
    classes, index = np.unique(y, return_inverse=True)
    means = np.stack([bank[y == k].mean(0) for k in classes])
    scatter = (bank - means[index]).T @ (bank - means[index])
    return means, np.linalg.inv(scatter + 1e-6 * np.eye(len(scatter)))


def squared_distances(bank: Array, y: Labels, seen: Array) -> Array:
    means, precision = gaussians(bank, y)
    return np.asarray(cdist(seen, means, "mahalanobis", VI=precision) ** 2)


def mahalanobis(bank: Array, y: Labels, seen: Array) -> Array:
    return np.asarray(squared_distances(bank, y, seen).min(1) / 2)


def mahalanobis_odin(c: Case) -> Array:
    means, precision = (torch.from_numpy(found) for found in gaussians(c.bank, c.y))
    x = c.images.clone().requires_grad_(True)
    away = c.net[:-1](normalised(x)).double() - means[squared_distances(c.bank, c.y, c.seen).argmin(1)]
    (gradient,) = torch.autograd.grad((away @ precision * away).sum(), x)
    return mahalanobis(c.bank, c.y, c.z(c.images - 0.002 * gradient.sign()))


def gaussian_mixture(c: Case) -> Array:
    terms = []
    for bank in (c.bank[c.y == k] for k in np.unique(c.y)):
        density = multivariate_normal(bank.mean(0), np.cov(bank.T, bias=True) + 1e-6 * np.eye(16))
        terms.append(np.log(len(bank) / len(c.y)) + density.logpdf(c.seen))
    return energy(np.column_stack(terms))


def neighbour_guidance(c: Case) -> Array:
    guides = unit(c.bank) * energy(c.bank_logits)[:, None]
    return np.asarray(np.sort(-unit(c.seen) @ guides.T, axis=1)[:, -10:].mean(1) * energy(c.logits))


def hopfield(c: Case) -> Array:
    right = c.bank_logits.argmax(1) == c.y
    patterns = np.stack([c.bank[right & (c.y == k)].mean(0) for k in range(4)])
    return -np.asarray((c.seen * patterns[c.best]).sum(1))


def virtual_logit(c: Case) -> Array:
    origin = -np.linalg.pinv(c.weight) @ c.bias
    rest = np.linalg.svd(c.bank - origin)[2][8:].T  # all of the 16 directions except the 8 principal ones
    alpha = c.bank_logits.max(1).mean() / np.linalg.norm((c.bank - origin) @ rest, axis=1).mean()
    return np.asarray(alpha * np.linalg.norm((c.seen - origin) @ rest, axis=1) + energy(c.logits))


def decision_boundary(c: Case) -> Array:
    scores = []
    for z, logits, best in zip(c.seen, c.logits, c.best, strict=True):
        others = np.delete(np.arange(4), best)
        to_boundary = (logits[best] - logits[others]) / np.linalg.norm(c.weight[best] - c.weight[others], axis=1)
        scores.append(-to_boundary.mean() / np.linalg.norm(z - c.bank.mean(0)))
    return np.array(scores)


def maximum_likelihood(c: Case) -> Array:
    bank, seen = unit(c.bank), unit(c.seen)
    leverage = (seen @ np.linalg.inv(bank.T @ bank) * seen).sum(1, keepdims=True)
    p = softmax(c.head(seen))
    # In units of log C, as in the library.
    return np.asarray(np.log((p / (p + (1 - p) * p ** (leverage / (1 + leverage)))).sum(1)) / np.log(4))


def largest(z: Array, number: int) -> Array:
    return np.where(z >= np.sort(z, axis=1)[:, [-number]], z, 0)


def share(z: Array, number: int) -> Array:
    return np.asarray(z.sum(1, keepdims=True) / largest(z, number).sum(1, keepdims=True))


def dice(c: Case) -> Array:
    contribution = c.bank.mean(0) * c.weight
    return energy(c.seen @ (c.weight * (contribution > np.quantile(contribution, 0.9))).T + c.bias)


def rank_feature(c: Case) -> Array:
    u, s, vt = np.linalg.svd(c.maps(c.images)[-1].reshape(-1, 16, 16), full_matrices=False)
    return energy(c.head((u[:, :, 1:] * s[:, None, 1:] @ vt[:, 1:]).mean(2)))


def odin(c: Case) -> Array:
    x = c.images.clone().requires_grad_(True)
    confidence = (c.net(normalised(x)) / 1000).softmax(1).amax(1)
    (gradient,) = torch.autograd.grad(confidence.log().sum(), x)
    return np.asarray(-softmax(c.head(c.z(c.images + 0.0014 * gradient.sign())) / 1000).max(1))


def monte_carlo_dropout(c: Case) -> Array:
    """Every image has draws of its own, seeded by its pixels."""
    pixels = (c.images * 255).round().byte().numpy()

    def one(z: Tensor, image: NDArray[np.uint8]) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(image.tobytes()))
            draws = F.dropout(z.expand(30, -1), DROPOUT).double().numpy()
        return float(np.var(softmax(c.head(draws)), axis=0, ddof=1).mean())

    return np.array([one(z, image) for z, image in zip(torch.from_numpy(c.seen).float(), pixels, strict=True)])


def gram(c: Case) -> Array:
    def rows(maps: Array, p: int) -> Array:
        power = maps.reshape(*maps.shape[:2], -1) ** p
        return np.asarray((power @ power.swapaxes(1, 2)).sum(2) ** (1 / p))

    def deviation(values: Array, low: Array, high: Array) -> Array:
        below, above = (low - values) / np.abs(low + 1e-6), (values - high) / np.abs(high + 1e-6)
        return np.asarray((below.clip(0) + above.clip(0)).sum(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        orders = [members[torch.randperm(len(members))] for members in (np.flatnonzero(c.y == k) for k in range(4))]
    total = np.zeros(len(c.images))
    for bank, seen in zip(c.maps(c.x), c.maps(c.images), strict=True):
        held_out, judged = [np.zeros(len(order) // 10) for order in orders], np.zeros(len(seen))
        for p in range(1, 11):
            for k, order in enumerate(orders):
                out, kept = np.split(rows(bank, p)[order], [len(order) // 10])
                held_out[k] += deviation(out, kept.min(0), kept.max(0))
                judged += (c.best == k) * deviation(rows(seen, p), kept.min(0), kept.max(0))
        total += judged / np.concatenate(held_out).mean()
    return total


def coverage(c: Case) -> Array:
    left = np.geomspace(1e-6, 0.5, 26)
    edges = np.concatenate([left, 1 - left[-2::-1]])

    def bins(x: Tensor) -> list[NDArray[np.intp]]:
        *maps, logits = c.layers(x)
        # The KL divergence of the uniform distribution from the softmax, up to a constant.
        grads = torch.autograd.grad(-logits.log_softmax(1).mean(1).sum(), maps)
        states = [torch.sigmoid(100 * (m * g).mean((2, 3))).detach().numpy() for m, g in zip(maps, grads, strict=True)]
        return [(np.searchsorted(edges, state, side="right") - 1).clip(0, 49) for state in states]

    total = np.zeros(len(c.images))
    for bank, seen in zip(bins(c.x), bins(c.images), strict=True):
        total -= np.minimum((seen[:, None] == bank).sum(1) / 50, 1).mean(1)
    return total


FORMULAS: dict[str, Callable[[Case], Array]] = {
    "MaxSoftmax": lambda c: -c.p.max(1),
    "MaxLogit": lambda c: -c.logits.max(1),
    "EnergyBased": lambda c: energy(c.logits),
    "Entropy": lambda c: entropy(c.p, axis=1),
    "GEN": lambda c: ((c.p * (1 - c.p)) ** 0.1).mean(1),  # the paper sums
    "KLMatching": kl_matching,
    "TemperatureScaling": temperature_scaling,
    "OpenMax": openmax,
    "Mahalanobis": lambda c: mahalanobis(c.bank, c.y, c.seen),
    "RMD": lambda c: (squared_distances(c.bank, c.y, c.seen) - squared_distances(c.bank, 0 * c.y, c.seen)).min(1),
    "GMM": gaussian_mixture,
    "KNN": lambda c: np.sort(cdist(unit(c.seen), unit(c.bank)), axis=1)[:, 49],
    "SHE": hopfield,
    "NNGuide": neighbour_guidance,
    "ViM": virtual_logit,
    "NCI": lambda c: -(unit(c.seen - c.bank.mean(0)) * c.weight[c.best]).sum(1),  # with a weight of 0 for |z|
    "fDBD": decision_boundary,
    "PNML": maximum_likelihood,
    # The gradient of the cross entropy with the uniform distribution, (p - 1/C) z'.
    "GradNorm": lambda c: -np.abs(c.p - 1 / 4).sum(1) * np.abs(c.seen).sum(1),
    # The gradient of -sum log p, (C p - 1) z'. The library reverses the sign: a large gradient means certainty.
    "GradUncertainty": lambda c: -((4 * c.p - 1) ** 2).sum(1) * (c.seen**2).sum(1),
    "ReAct": lambda c: energy(c.head(np.minimum(c.seen, np.percentile(c.bank, 90)))),
    # The paper sets values below the lower threshold to zero; the library clips them to it.
    "VRA": lambda c: energy(c.head(c.seen.clip(*np.quantile(c.bank, [0.01, 0.99], axis=0)))),
    # Of 16 units, 35 % are 6 and 5 % are 1.
    "ASH": lambda c: energy(c.head(largest(c.seen, 6) * np.exp(share(c.seen, 6)))),
    "SCALE": lambda c: energy(c.head(c.seen * np.exp(share(c.seen, 6)))),
    "LTS": lambda c: energy(c.logits * share(c.seen, 1) ** 2),
    "DICE": dice,
    "RankFeat": rank_feature,
    "ODIN": odin,
    "MahalanobisODIN": mahalanobis_odin,
    "MCD": monte_carlo_dropout,
    "MultiMahalanobis": lambda c: np.sum([*map(mahalanobis, c.means(c.x), [c.y] * 3, c.means(c.images))], axis=0),
    "Gram": gram,
    "NACUE": coverage,
}
# Relative to the range of the scores. OpenMax fits float32 distances + 10000; a count of NACUE may differ by one.
TOLERANCE = dict.fromkeys(FORMULAS, 2e-4) | {"OpenMax": 5e-3, "NACUE": 1e-2}


def check(case: Case, name: str) -> None:
    detector, expected = case.detectors[name], FORMULAS[name](case)
    detector.fit(case.loader)
    tolerance = TOLERANCE[name] * np.ptp(expected)
    assert tolerance > 0
    np.testing.assert_allclose(detector.score(case.images).numpy(), expected, rtol=0, atol=tolerance)
    assert not any(module.training for module in case.net.modules())
    if detector.judge is not None:  # as an attack computes it, with the copy of the network that is prepared for speed
        judged = detector.judge(detector.reads(case.images.clone().requires_grad_(True)))
        np.testing.assert_allclose(judged.detach().numpy(), expected, rtol=0, atol=tolerance)


def test_every_detector_has_a_formula(case: Case) -> None:
    # A flow has no closed form; test_density_detectors.py checks that it is a density.
    assert set(case.detectors) == {*FORMULAS, "FeatureFlow"}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_score_is_the_formula(case: Case, name: str) -> None:
    check(case, name)


@pytest.mark.parametrize("name", ["Mahalanobis", "RMD", "GMM", "MahalanobisODIN", "MultiMahalanobis"])
def test_a_class_without_images_is_left_out(case: Case, name: str) -> None:
    present = case.y != 1
    check(Case(case.net, case.x[torch.from_numpy(present)], case.y[present], case.images), name)


def test_the_rate_is_the_divergence_from_the_standard_normal(case: Case) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Bottleneck(CifarResNet(1), classes=4, width=8).eval()
        nn.init.normal_(net.stats.bias)
    with torch.no_grad():
        mean, log_variance = net.stats(net.body.pooled(normalised(case.images))).double().chunk(2, dim=1)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum(1)
    rate = make_detectors(Classifier(Encoder(net, name="mine", input_size=(16, 16), mean=MEAN, std=STD)))[0]["Rate"]
    torch.testing.assert_close(rate.score(case.images), expected, rtol=1e-5, atol=0)
