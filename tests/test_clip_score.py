import numpy as np
import scipy.sparse as sp
from PIL import Image

from blindspots_lib.core.config import Weights
from blindspots_lib.data.scenes import draw_scene
from blindspots_lib.models.clip import ClipEncoder
from blindspots_lib.trial.clip_score import agreement, name_concepts, word_scores


def test_word_scores_worked_out_by_hand():
    named = np.array([[True, False], [True, True], [False, True], [False, False]])
    real, generated = np.array([0.9, 0.8, 0.7, 0.1]), np.array([0.1, 0.6, 0.7, 0.9])
    np.testing.assert_allclose(word_scores(generated, real, named), [(1 - 0.5) / 2, (1 - 0.1) / 2])


def test_a_concept_is_named_after_the_word_nearest_to_its_images():
    images = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    energies = sp.csr_matrix(np.array([[3.0, 0.0], [1.0, 0.5], [0.0, 4.0], [0.5, 2.0]]))
    assert name_concepts(energies, images, words=np.array([[0.0, 1.0], [1.0, 0.0]])).tolist() == [1, 0]


def test_the_miniature_clip_tells_whose_caption_it_is():
    scenes = [draw_scene(seed=77, index=index) for index in range(40)]
    encoder = ClipEncoder(Weights(path="miniatures/weights/clip"))
    images = encoder.images([Image.fromarray(rendering.image) for _, rendering in scenes])
    captions = encoder.captions([scene.caption for scene, _ in scenes])
    own = agreement(images, captions)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-4)
    assert own.mean() > agreement(images, np.roll(captions, 1, axis=0)).mean() + 0.5
