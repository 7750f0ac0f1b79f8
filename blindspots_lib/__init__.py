"""Find the concepts that a text-to-image model suppresses, exaggerates or memorizes.

The modules, in the order in which data flows through them: `study`, `artifacts`, `scenes`, `pairs`,
`generation`, `features`, `sae`, `training`, `concepts`, `blindspots`, `memorization`, `plotting`, `widgets`.
"""

__version__ = "0.1.0"
