"""The people of the journey, as an outside program: everything goes through HTTP, DICOM and the printer's panel.

Nothing here imports the service; what works here works for any client.
"""
