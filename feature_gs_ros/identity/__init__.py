"""Objects that were annotated in some views get a code; every Gaussian and every pixel then knows its object.

`encoding` back-projects the codes of `codes`; `answers` reads them; `masks` and `association` bring annotations in;
`voting` is the short path for one binary mask a view, `instances` makes objects where nobody annotated any.
"""
