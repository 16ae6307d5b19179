"""Export: a fine-tune's adapter as a zip, the merged model as safetensors or GGUF, and either pushed to a hub.

May import: lab, model, memory, runs, catalog and below.
"""
