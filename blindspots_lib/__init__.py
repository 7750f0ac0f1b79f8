"""Find the concepts that a text-to-image model suppresses, exaggerates or memorizes.

The modules in the order in which data flows through them:

parts          the parts of a study file, validated
study          the study file and its paths
artifacts      atomic, fingerprinted, resumable outputs with a JSON header
hub            files from the hub: pinned, chosen, checked
scenes         OpenMoji Scenes, the embedded data-generating process
scene_pairs    which scene each pair shows, and whose caption it carries
images         image files, decoded under limits
downloads      images from links, politely
sources        where pairs come from: scenes, folders, sets, links
pairs          image-caption pairs, one schema for every source
cores          small work side by side, a core each
pipelines      diffusers pipelines: put together, placed, asked for images
generation     every caption through every model, kept batch by batch
elsewhere      images that another program made
perfect        the generator without faults: fresh draws of the scenes
features       the backbone's tokens, the one image transform
tokens         where tokens come from (stored or computed), the order training sees them in
candidates     k-means centroids that atoms start at, found once for all SAEs
topk           the k largest entries of a matrix product, without the product
dictionaries   free atoms, or archetypal ones near the data's hull (dense or local W)
sae            the top-k SAE
gradients      its exact gradients, for what was active
optimizer      AdamW for gradients of few rows
training       the SAE training loop
quality        how good a dictionary is
stability      whether the same concepts come again
formats        SAEs of other libraries, read and written
statistics     mergeable, exact statistics of concepts
concepts       energies, codes and names of concepts
blindspots     delta(k), its uncertainty, rankings, across models
memorization   datapoint differences, nearest training images
results        the stages in order; a study's finished results opened together
oracle         what is truly in an image of the embedded study
agreement      how well captions and images agree, by a CLIP
matching       which true concept each concept stands for
rankings       units of any kind and their delta, as tables
probe          how much any dictionary over the backbone could find
baselines      other units than the SAE's; global scores
measures       how well a ranking finds what was planted
planted        what a miniature model was made to do wrong
validation     the tables of the trial: what was planted, what was found
ablations      what the answer depends on
scorecard      all measures of all models
plotting       charts, one function a figure; figures tied to what made them
scorecard_plots  charts of the scorecard
galleries      grids of pictures with heatmaps
exhibits       which pairs and concepts the picture figures show
widgets        sliders over finished results
costs          bytes and seconds of each part of a study
plan           what a study will take
check          what would stop it
notebooks      runs the notebooks in sequence, skips what has not changed
"""

__version__ = "0.1.0"
