"""`alignkd report`: what the records say, as tables, sentences, and one page."""
