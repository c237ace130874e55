"""The stand-in for sail with a bmcv on OpenCV: the calls of sail's samples, batches included."""

import enum

import cv2
import numpy as np
from standin_sail import *  # noqa: F403
from standin_sail import _NUMPY, Dtype, Handle, Tensor


class Format(enum.Enum):
    FORMAT_BGR_PLANAR, FORMAT_YUV420P = range(2)


class BMImage:
    def __init__(self, handle=None, height=0, width=0, format=Format.FORMAT_YUV420P, dtype=None):
        self._format, self._dtype = format, dtype
        self._data = np.zeros((3, height, width), _NUMPY[dtype or Dtype.BM_UINT8])

    def height(self):
        return self._data.shape[1]

    def width(self):
        return self._data.shape[2]

    def dtype(self):
        return self._dtype

    def data(self):
        return self


class BMImageArray4D(list):
    def __init__(self):
        super().__init__([None] * 4)


class Decoder:
    def __init__(self, path, compressed=True, tpu=0):
        Handle(tpu)
        self._picture = cv2.imread(path)

    def read(self, handle, image):
        if self._picture is None:
            return -1
        image._data = np.ascontiguousarray(self._picture.transpose(2, 0, 1))
        image._dtype = Dtype.BM_UINT8
        return 0


class Bmcv:
    def __init__(self, handle):
        self._handle = handle

    def get_bm_image_data_format(self, dtype):
        return dtype

    def convert_format(self, image, into):
        into._data[...] = image._data

    def resize(self, image, width, height):
        picture = cv2.resize(np.ascontiguousarray(image._data.transpose(1, 2, 0)), (width, height))
        found = BMImage(self._handle, height, width, image._format, image._dtype)
        found._data[...] = picture.transpose(2, 0, 1)
        return found

    def convert_to(self, image, into, scales):
        assert into._format is Format.FORMAT_BGR_PLANAR
        for plane, (scale, shift) in enumerate(scales):
            real = image._data[plane] * np.float32(scale) + np.float32(shift)
            if into._data.dtype.kind != "f":
                bounds = np.iinfo(into._data.dtype)
                real = np.clip(np.rint(real), bounds.min, bounds.max)
            into._data[plane] = real

    def bm_image_to_tensor(self, images, tensor):
        images = images if isinstance(images, list) else [images]
        tensor._dev = np.stack([image._data for image in images])


assert Tensor
