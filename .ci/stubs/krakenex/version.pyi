__version__: str
__url__: str
