"""What moto does otherwise than AWS, corrected: one module a service, one class or function a behaviour."""
