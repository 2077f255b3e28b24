"""Images: names, layers, transfers. `bulkhead.manager.images.app.ImageService` puts the parts together."""
