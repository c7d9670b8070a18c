"""Five updates by PyTorch's Muon and AdamW, for the test `the_backends_update_alike` in model/tests/backends.rs.

Two matrices, 12x7 and 6x20, are updated by Muon and the five numbers between them by AdamW. PyTorch iterates in
bfloat16; here it is patched to use float32. Prints index and value of some weights. Written with PyTorch 2.15.
"""

import torch

torch.bfloat16 = torch.float32

N = 12 * 7 + 5 + 6 * 20


def wave(rate):
    return torch.sin(torch.arange(N, dtype=torch.float32) * torch.tensor(rate, dtype=torch.float32))


def split(flat):
    return flat[:84].reshape(12, 7).clone(), flat[84:89].clone(), flat[89:].reshape(6, 20).clone()


tall, scale, wide = (torch.nn.Parameter(part) for part in split(wave(0.37)))
muon = torch.optim.Muon(
    [tall, wide], lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
)
adamw = torch.optim.AdamW([scale], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
for step in range(1, 6):
    tall.grad, scale.grad, wide.grad = split(0.5 * wave(0.1 + 0.01 * step))
    muon.step()
    adamw.step()
flat = torch.cat([tall.flatten(), scale, wide.flatten()]).tolist()
for place in [0, 1, 13, 83, 84, 88, 89, 90, 150, 208]:
    print(place, round(flat[place], 7))
